"""Models in every form that people keep them in; ``checkpoint.py`` holds the contract, ``forms.py`` the list."""
