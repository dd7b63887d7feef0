"""A server that answers as the pact says, for people who write clients.

Req: ORCH-4041
"""
