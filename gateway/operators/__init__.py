"""What operators see and do, on the admin port: metrics, the console with its feed, and acts."""
