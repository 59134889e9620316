"""Figures of merit, and the photometry that a separation is measured against."""
