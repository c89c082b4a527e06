"""What can go wrong in what we hold, and who must act.

StorageError
+-- ArchiveError        a file cannot be written or read: the administrator
|   +-- ArchiveFull     no space, or no quota, left: the administrator
+-- IndexUnavailable    the database does not answer: the administrator
|   +-- SchemaOutdated  its tables are older (or newer) than this version: `osteonode db upgrade`
+-- NotFound            no row of that name: whoever asked
+-- ChangeRefused       a change that what is held forbids: whoever asked
"""

from __future__ import annotations


class StorageError(Exception):
    """Root of the tree."""


class ArchiveError(StorageError):
    """A file cannot be written or read."""


class ArchiveFull(ArchiveError):
    """No space, or no quota, left."""


class IndexUnavailable(StorageError):
    """The database does not answer."""


class SchemaOutdated(IndexUnavailable):
    """The tables are not those of this version."""


class NotFound(StorageError):
    """Nothing of that name."""


class ChangeRefused(StorageError):
    """A change that what is held forbids: a name that is taken, a destination in use, a settled workitem."""
