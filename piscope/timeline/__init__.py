"""Who was where, and what it met: vCPUs, their lives, and what was posted to them."""
