"""placeholder until the facade exists"""
