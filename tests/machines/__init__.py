"""Virtual machines on a lab, which ends with the last test here."""
