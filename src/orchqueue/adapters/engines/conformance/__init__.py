"""What every engine behind the port must do, as checks that the tests run and that users run against their own servers."""
