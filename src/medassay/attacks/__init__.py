"""Changes and reconstructions of images from what a net gives away."""
