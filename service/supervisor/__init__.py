"""The main process: LitServe, its children, their signals."""
