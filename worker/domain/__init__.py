"""Decide, without effects: values in, values out, and the standard library alone."""
