"""Reading inside a network while it runs: where in a module's tensors the images, units and positions are.

::

    probes   what is shown to a network to learn that
    watch    what passes its modules meanwhile
    layout   a tensor → [images, units, h, w] or [images, units], or why it cannot be read so
    survey   all of it for every module, once a network
    trace    the named layers of each forward pass
"""
