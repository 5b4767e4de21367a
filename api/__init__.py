"""The doors: each dialect a folder, none knows a unit."""
