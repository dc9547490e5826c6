"""The glue between tables and models: one row in, one row out."""
