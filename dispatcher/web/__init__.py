"""What people and programs speak with: a REST API, and later pages."""
