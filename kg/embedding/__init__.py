"""Embeddings of strategies, learnt from the graph and from experience (AutoMC paper, Algorithm 1).

`kg.embedding.learn.learn` learns them, `kg.embedding.report.report` says how good they are, and
`kg.embedding.vectors.Vectors` is what the rest of the program keeps and reads.
"""
