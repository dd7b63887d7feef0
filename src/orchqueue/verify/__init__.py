"""What a user runs against a deployment to see its promises kept. It knows nothing but the client."""
