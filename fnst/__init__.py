"""fnst: fast neural style transfer, from photographs to a versioned stylizer."""
