"""What commands need that query running agents or operate them."""
