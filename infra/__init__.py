"""What a team shares: its servers, and how they are set up."""
