"""Every table format that a P2M can have: the hypervisor's paging mode, and the domain's `table_format`."""

FORMATS = {
    "npt": ("4-level", "npt"),
    "npt-5": ("5-level", "npt"),
    "npt-pae": ("pae", "npt"),
    "npt-2": ("2-level", "npt"),
    "ept": ("4-level", "ept"),
    "ept-5": ("4-level", "ept-5"),
}
