"""What a team's servers hold before the first release: each thing looked up first, and made or changed where needed."""
