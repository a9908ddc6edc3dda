"""What a timer is, and when it is due. Pure: no input or output, no server, no framework."""
