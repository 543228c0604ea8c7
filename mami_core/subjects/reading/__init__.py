"""Reading inside a network while it runs: where in a module's tensors the images, units and positions are.

::

    probes      what is shown to a network to learn that
    watch       what passes its modules meanwhile
    contrasts   how clearly a tensor's axes follow the image
    orders      where tokens lie that are in another order, such as that of windows
    acts        of generators, in which part of the image each place acts
    layout      a tensor → [images, units, h, w] or [images, units]
    finder      which layout a tensor has, or why it has none
    survey      all of it for every module, once a network
    trace       the named layers of each forward pass
"""
