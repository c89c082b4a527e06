"""The index: questions and transitions, each one transaction, a module of functions per noun.

    from storage.index import Index, open_index, instances, studies, workitems

Everything below takes the open `Index` first and gives values of `storage.model` back. No one outside `storage` sees
SQLAlchemy.
"""

from storage.index.engine import Index, open_index

__all__ = ["Index", "open_index"]
