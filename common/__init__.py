"""What every room needs: errors, registries, files, data, devices and base models."""
