"""What a launch integrates. The files of the oracles give the integrands."""

VALUE, MOMENTS, PRODUCT, SCALE, SECOND, JACOBIAN = range(6)
"""
    VALUE     y_eps
    MOMENTS   y_eps and E[y_i Z_i]
    PRODUCT   D y_eps v, which is the VJP too: the Jacobian is symmetric
    SCALE     d <v, y_eps> / d eps_i, every coordinate having its own temperature
    SECOND    D^2 y_eps [v, w]
    JACOBIAN  D y_eps
"""
