"""An adapter on the Hugging Face hub: put there with a card and its run's report, and fetched from there.

Other rooms take what they need from here, never from a module inside.
"""

from visionlora.publishing.pulling import PulledAdapter, pull
from visionlora.publishing.pushing import PushedAdapter, push

__all__ = ["PulledAdapter", "PushedAdapter", "pull", "push"]
