"""Labels of what was shown: taken durably, matched with what was scored, shipped, and watched as online figures."""
