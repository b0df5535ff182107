"""From label files and images to tensors: labels, images, positions of objects, data sets."""
