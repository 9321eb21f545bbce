"""The process that supervises, the one that answers, and what they say to each other."""
