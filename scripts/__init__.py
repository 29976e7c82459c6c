"""Tools of the checkout: setting up, locks, .env.example."""
