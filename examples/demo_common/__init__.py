"""What both demos share: settings, templates, and a look behind the curtain.

An app of your own needs none of this. The part that does is `app.py` in each demo.
"""
