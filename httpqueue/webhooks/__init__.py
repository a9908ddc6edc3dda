"""What is sent for a timer, and what an answer means."""
