"""All that runs on a host.

Standard library only, Python 3.8 syntax, and no import from outside this
package: the whole package is shipped to hosts as one zip, where it runs under
another name.  Use relative imports only.
"""
