"""An HTTP/1.1 load generator for one route, light enough to share a small machine with the server it measures.

`load` says what is sent and runs it, `pace` decides when a connection sends, `connection` sends and reads, `report` sums up.
"""
