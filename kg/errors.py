"""Everything the knowledge graph can complain about.

AutoMCError                 base of these and of those in `automc.errors`
└── KGError                 exit code 2: something the user gave is wrong
    ├── CardInvalid             a method card breaks a rule
    ├── ExperienceInvalid       an experience file breaks a rule
    ├── SchemaInvalid           a strategy, scheme or setting cannot be read
    ├── QueryInvalid            Cypher that does not parse or names what is not there
    │   └── WriteRefused        a write inside a read-only query
    ├── QueryTimeout            a query ran past its time limit
    ├── MigrationInvalid        an applied migration was edited, or one cannot run
    ├── VectorsInvalid          an embeddings file cannot be read
    ├── NotInGraph              a method, strategy, study … that the graph does not hold
    ├── NothingChanges          what is to be retired is so already, or what is asked back was never retired
    ├── AddressInvalid          what names the graph is not the address of a server
    └── GraphUnavailable        exit code 1: the store cannot be reached or opened
        └── GraphLocked         another process holds the embedded store
"""

from __future__ import annotations


class AutoMCError(Exception):
    """Base of all errors of AutoMC; the message says what failed, where, why, and what to do."""

    exit_code = 2


class KGError(AutoMCError):
    """Base of all errors of `kg`."""


class CardInvalid(KGError):
    """A method card breaks a rule of `kg.cards`."""


class ExperienceInvalid(KGError):
    """An experience file breaks a rule of `kg.experience`."""


class SchemaInvalid(KGError):
    """A strategy, scheme or setting cannot be read."""


class QueryInvalid(KGError):
    """A query does not parse, lacks a parameter, or is refused by the store."""


class WriteRefused(QueryInvalid):
    """A write was attempted in a read-only query."""


class QueryTimeout(KGError):
    """A query ran past its time limit."""


class MigrationInvalid(KGError):
    """An applied migration file was edited, or a migration cannot be read or run."""


class VectorsInvalid(KGError):
    """A file of embeddings is missing, damaged, or of another format."""


class NotInGraph(KGError):
    """Something was asked for that the graph does not hold."""


class NothingChanges(KGError):
    """What is to be retired is retired already, or what is asked back was not."""


class AddressInvalid(KGError):
    """The address of a graph server that cannot be one, whatever the network."""


class GraphUnavailable(KGError):
    """The store cannot be reached or opened; nothing was written."""

    exit_code = 1


class GraphLocked(GraphUnavailable):
    """Another process holds the embedded store; the message names it."""
