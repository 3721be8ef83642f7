"""What commands need that look at running agents or operate them."""
