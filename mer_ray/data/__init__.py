"""What is read and written: manifests, layouts, media, tables, features and the demo."""
