"""Twofold: a hypervisor's memory manager, complete and bit-exact: build, run, audit and price guest memory.

Every public name is listed, with its type, in the stub beside this file and loaded on first use: `import twofold`
itself stays light.
"""

import twofold.start  # noqa: F401  first: from here on Ctrl-C ends the command in one line

import lazy_loader  # isort: skip

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
