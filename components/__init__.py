"""Component resources. They only wire: every byte is decided in render/."""
