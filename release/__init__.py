"""What a release has beside the packages: bills of materials, licences of dependencies."""
