"""What others have of a machine's memory: page tables and whole machines out of files, looked up and audited."""

from twofold.dumps.container import Container, ContainerWriter
from twofold.dumps.open_tables import Audited, OpenTables, audit_file, open_tables
from twofold.dumps.readers import DumpReader, dump_reader_names, get_dump_reader
from twofold.dumps.saved_machine import SavedDomain, save_machine
from twofold.dumps.source import Dump, DumpRoot, FrameSource, MachineState

__all__ = [
    "Audited",
    "Container",
    "ContainerWriter",
    "Dump",
    "DumpReader",
    "DumpRoot",
    "FrameSource",
    "MachineState",
    "OpenTables",
    "SavedDomain",
    "audit_file",
    "dump_reader_names",
    "get_dump_reader",
    "open_tables",
    "save_machine",
]
