"""What is read and written: manifests, layouts, media, tables and features."""
