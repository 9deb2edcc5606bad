"""Drawing of a scene: canvas, backgrounds, figures, and the finished image."""
