"""Browsers as devices: a page that anyone's phone or laptop opens, and the agent that hands it what is to be measured.

Reading order: desk.py (the one page and the one request it has), answers.py (what a page may say), relay.py (the agent,
and the page's calls), heat.py (the base against its first session), assets.py (the runtimes as their makers publish
them), page/ (what the browser loads: page.js speaks with the relay, worker.js measures).
"""
