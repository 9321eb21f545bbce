"""The gateway: Envoy and the servers behind it, kept running, with their logs."""
