"""What happens where the machine gives no more."""
