"""What stands between clients and a served model: who is let in, when, and for how long."""
