"""How many evaluations a draw of an amortized posterior takes."""
