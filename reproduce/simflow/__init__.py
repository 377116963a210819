"""SimFlow (arXiv 2512.04084): its targets, their cells and their figures."""
