"""Defences that answer under one roof: CMRM at both levels, its rivals, its controls and its ceilings."""
