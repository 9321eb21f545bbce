"""What shares the traffic between champion and challenger."""
