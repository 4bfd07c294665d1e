"""What a run needs on devices that are not there: memory, exchanges, operations, time.

`compile` compiles the programs of a run from shapes alone, `hlo` and `cost` read what the compiler
made, `devices` knows what devices can do, `forecast` puts them together and `report` prints.
"""
