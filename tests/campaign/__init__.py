"""The long campaign: attacks of many kinds on sousvit, counted and compared with what an undisturbed user gets.

    make campaign
    python -m tests.campaign --kind kills --count 100 --seed 3

Each kind is one file with a function ``attacks`` (:data:`.apart.Attacks`), which yields what came of every attack, and
runs in a process of its own (:mod:`.apart`). An attack depends on the seed and its number alone, and what it finds is
told with the options that make it again. A small part of each with a fixed seed is a test (``tests/test_campaign.py``).
"""
