"""The trajectory explorer: what a run holds, as plain JSON data (``model.Explorer``), over an index of its event logs
(``events.EventLog``). Reads run folders through ``store`` and ``trajectory`` only, writes nothing into them; no torch, and in
what stands behind ``model`` no widget library. Notebooks, ``cli`` and the widget of this folder may import it.
"""
